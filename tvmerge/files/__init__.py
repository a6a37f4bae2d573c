"""Files as they lie on a disk: safetensors, what torch.save wrote, YAML. None is trusted."""
