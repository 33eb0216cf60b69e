"""Makes the folder `lpips` that `ulm train --critics FOLDER --reward cycle` reads, from the weights of torchvision and lpips.

Needs PyTorch, torchvision, lpips and safetensors; torchvision fetches VGG-16 on first use. Run it: `python lpips.py FOLDER/lpips`.
"""
import os
import sys

# Run as a script, this file would hide the package of its name.
sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != os.path.dirname(os.path.abspath(__file__))]


def save(features, lins, folder):
    """`features`: VGG-16's convolutions as torchvision numbers them; `lins`: for each of five stages the weights [1, c, 1, 1]."""
    from safetensors.torch import save_file

    tensors = {f"features.{name}": tensor.detach().contiguous() for name, tensor in features.state_dict().items()}
    tensors |= {f"lin{i}.weight": weight.detach().contiguous() for i, weight in enumerate(lins)}
    os.makedirs(folder, exist_ok=True)
    save_file(tensors, os.path.join(folder, "model.safetensors"))


if __name__ == "__main__":
    import lpips
    import torchvision

    judge = lpips.LPIPS(net="vgg", verbose=False)
    vgg = torchvision.models.vgg16(weights=torchvision.models.VGG16_Weights.IMAGENET1K_V1)
    save(vgg.features, [lin.model[-1].weight for lin in judge.lins], sys.argv[1])
