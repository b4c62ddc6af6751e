"""The ONNX → torch engine: for GPUs beside which there is torch but no onnxruntime with CUDA.

It has a part of the operators, and computes a model only where its results were compared with those of onnxruntime on
the CPU when the model was loaded.
"""
