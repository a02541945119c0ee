"""Models as files that run without this project: programs for a platform, and ONNX of what a robot asks for."""
