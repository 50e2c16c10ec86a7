"""What `dynconv plot` draws of runs, and the numbers beside it."""
