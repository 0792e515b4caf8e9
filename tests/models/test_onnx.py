"""``model.to_onnx``, Lightning's own, with a model that normalises its inputs itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lsa_lightning import RobustClassifier
from lsa_lightning.models import CNN, Normalize

pytestmark = pytest.mark.slow


def test_a_classifier_in_onnx_takes_pixels_in_batches_of_any_size(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    model = RobustClassifier(CNN(in_channels=1, image_size=28, num_classes=10), normalize=Normalize([0.5], [0.25]))
    model.eval()
    file = tmp_path / "model.onnx"
    sizes = {"x": {0: torch.export.Dim.DYNAMIC}}
    model.to_onnx(file, torch.rand(2, 1, 28, 28), input_names=["pixels"], dynamic_shapes=sizes, dynamo=True)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = torch.rand(5, 1, 28, 28)
    (logits,) = session.run(None, {"pixels": x.numpy()})
    np.testing.assert_allclose(logits, model(x).detach().numpy(), rtol=1e-4, atol=1e-5)
