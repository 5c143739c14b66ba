"""What turns images into embeddings: the trained network, ONNX, OpenVINO."""
