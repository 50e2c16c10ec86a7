from __future__ import annotations

import torch

from dynconv.ops.problem import is_channels_last


def test_channels_last_is_told_from_the_strides_as_torch_tells_it() -> None:
    plain = torch.empty(2, 3, 5, 7)
    last = plain.contiguous(memory_format=torch.channels_last)
    yes = {
        "channels_last": last,
        "a slice of it": last[:, :2, 1:, 1:],
        "one sample of it": last[:1],
    }
    no = {
        "contiguous": plain,
        "a slice of it": plain[:, :, ::2, 1:],
        "one pixel": torch.empty(2, 3, 1, 1),
        "one number": torch.empty(2, 1, 1, 1),
        "expanded": torch.empty(3, 1, 1).expand(2, 3, 5, 7),
        "no sample": torch.empty(0, 3, 5, 7),
        "no channel": last[:, :0],
        "transposed": last.transpose(2, 3),
    }
    for expected, tensors in ((True, yes), (False, no)):
        for name, tensor in tensors.items():
            # A convolution's output follows torch's own rule for its input's strides.
            assert is_channels_last(tensor) == expected, name
            if tensor.numel() and tensor.shape[1] == 3 and tensor.shape[2] > 1:
                y = torch.conv2d(tensor, torch.ones(4, 3, 1, 1))
                assert is_channels_last(y) == expected, f"torch.conv2d of {name}"
