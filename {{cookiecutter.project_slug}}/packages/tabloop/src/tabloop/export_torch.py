"""PyTorch to ONNX: scikit-learn's preprocessing and a network as one graph."""

import io
import warnings
from typing import TYPE_CHECKING, Any

from tabloop.export import convert
from tabloop.params import Schema

if TYPE_CHECKING:
    import onnx
    from torch import nn


def network_to_onnx(columns: Any, network: "nn.Module", width: int, schema: Schema) -> "onnx.ModelProto":
    """One graph: an input of shape (n, 1) for each column, one output `probability` (n,), float32, of class 1.

    Args:
        columns: a fitted scikit-learn transformer from the schema's columns to (n, width).
        network: from (n, width) float32 to logits (n,).
    """
    import onnx
    import torch
    from onnx import version_converter

    graph = convert(columns, schema)
    served = torch.nn.Sequential(network, torch.nn.Sigmoid()).eval()
    written = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter needs onnxscript, and seconds.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            served,
            (torch.zeros(2, width),),
            written,
            input_names=["network/columns"],
            output_names=["probability"],
            dynamic_axes={"network/columns": {0: "n"}, "probability": {0: "n"}},
            opset_version=18,
            dynamo=False,
            training=torch.onnx.TrainingMode.EVAL,  # the exporter would else switch the network to training
        )
    exported = onnx.load_from_string(written.getvalue())
    exported = onnx.compose.add_prefix(exported, "network/", rename_inputs=False, rename_outputs=False)
    graph.ir_version = exported.ir_version
    opset = next(entry.version for entry in graph.opset_import if entry.domain == "")
    exported = version_converter.convert_version(exported, opset)
    joint = [(graph.graph.output[0].name, "network/columns")]
    return onnx.compose.merge_models(graph, exported, io_map=joint)
