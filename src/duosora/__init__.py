"""duosora: open text-to-video, one model on two kinds of hardware (PyTorch on CUDA, MindSpore on Ascend)."""

__version__ = "0.1.0"
