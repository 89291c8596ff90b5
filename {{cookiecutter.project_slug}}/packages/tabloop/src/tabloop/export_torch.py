"""PyTorch to ONNX: the levels of the categories and a network as one graph, whose inputs are the schema's columns."""

import io
import warnings
from typing import Any

import onnx
import torch
from onnx import TensorProto, compose, helper
from torch import Tensor, nn

from tabloop.params import Schema

OPSET = 18


class Served(nn.Module):
    """From the columns in the schema's order, (n, 1) each, categories as codes, to P(positive), (n,)."""

    def __init__(self, network: nn.Module, schema: Schema) -> None:
        super().__init__()
        self.network, self.numeric = network, [column.numeric for column in schema.features.values()]

    def forward(self, *columns: Tensor) -> Tensor:
        """Both kinds of columns side by side; without a column of a kind, (n, 0)."""
        none = columns[0][:, :0]
        numbers = [c for c, numeric in zip(columns, self.numeric, strict=True) if numeric] or [none.float()]
        codes = [c for c, numeric in zip(columns, self.numeric, strict=True) if not numeric] or [none.long()]
        answer: Tensor = self.network(torch.cat(numbers, 1), torch.cat(codes, 1))
        return answer.sigmoid()


def network_to_onnx(network: nn.Module, levels: dict[str, list[str]], schema: Schema) -> onnx.ModelProto:
    """One graph: an input of shape (n, 1) for each column, one output `probability` (n,), float32, of class 1.

    Args:
        network: from numbers (n, d) float32 with NaN and codes (n, c) to logits (n,).
        levels: of each category, as in `Rows`: the place from 1 is the code, and that of any other value is 0.
    """
    written = io.BytesIO()
    columns = {n if c.numeric else f"{n}/code": c for n, c in schema.features.items()}
    example = [torch.zeros(2, 1, dtype=torch.float32 if c.numeric else torch.int64) for c in columns.values()]
    with warnings.catch_warnings():
        # The newer exporter needs onnxscript, and seconds.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            Served(network, schema).eval(),
            tuple(example),
            written,
            input_names=list(columns),
            output_names=["probability"],
            dynamic_axes={name: {0: "n"} for name in (*columns, "probability")},
            opset_version=OPSET,
            dynamo=False,
            training=torch.onnx.TrainingMode.EVAL,  # the exporter would else switch the network to training
        )
    model = onnx.load_from_string(written.getvalue())
    model = compose.add_prefix(model, "network/", rename_inputs=False, rename_outputs=False)
    for entry, name in zip(model.graph.input, schema.features, strict=True):
        if name in levels:
            code, entry.name = entry.name, name
            entry.type.tensor_type.elem_type = TensorProto.STRING
            places = range(1, len(levels[name]) + 1)
            known: dict[str, Any] = {
                "keys_strings": levels[name],
                "values_int64s": places,
                "default_int64": 0,
            }
            encoder = helper.make_node("LabelEncoder", [name], [code], domain="ai.onnx.ml", **known)
            model.graph.node.insert(0, encoder)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return model
