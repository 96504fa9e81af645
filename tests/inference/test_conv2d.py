import pytest
import torch
import torch.nn.functional as F
from torch.backends import mkldnn

from espnet_prune.inference.conv2d import Conv2d


def test_filters_are_arranged_for_the_kernel_that_takes_them(capfd):
    """Without a typical size oneDNN rearranged these at every call, which took four
    times as long as the convolution."""
    weight, bias = torch.randn(48, 64, 3, 3), torch.randn(48)
    x = torch.randn(1, 105, 39, 64).permute(0, 3, 1, 2)
    layer = Conv2d(weight, bias, None, (100, 39), (2, 2))
    if not layer.packed:
        pytest.skip("this torch has no oneDNN")
    with torch.no_grad(), mkldnn.verbose(mkldnn.VERBOSE_ON):
        actual = layer(x)
    told = capfd.readouterr().out
    torch.testing.assert_close(actual, F.conv2d(x, weight, bias, 2), atol=1e-3, rtol=0)
    assert ",convolution," in told
    lines = told.splitlines()
    assert not [t for t in lines if ",reorder," in t and "48x64x3x3" in t]
