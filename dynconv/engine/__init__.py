"""The one training loop, its run folder, checkpoints, evaluation and the selection of a model."""
