"""Changes of params.yaml that leave every other byte as it is."""

import re
from contextlib import suppress
from typing import Any

import yaml

from tabloop.cli import UserError

# With what an earlier search gained, and without a comment of the owner's, which stays behind it.
TRAIN = re.compile(r"^train:(?: # tuned: [^#\r\n]*?)?(?=\s*?(?:#|$))", re.M)


def with_arguments(text: str, values: dict[str, Any], gained: str) -> str:
    """The text of params.yaml with other values under `train`, and what they gained as the comment of `train:`.

    Raises:
        UserError: it is written in a way that can't be changed in its place, for example with an anchor.
    """
    wanted = yaml.safe_load(text)
    wanted["train"] |= values
    top: Any = yaml.compose(text)
    (train,) = (value for key, value in top.value if key.value == "train")
    for key, value in sorted(train.value, key=lambda pair: -pair[1].start_mark.index):
        if key.value in values:
            new = yaml.safe_dump([values[key.value]], default_flow_style=True, width=10_000).strip()[1:-1]
            text = text[: value.start_mark.index] + new + text[end_of(value) :]
    text = TRAIN.sub(lambda _: f"train: # tuned: {gained}", text)
    with suppress(yaml.YAMLError):
        if yaml.safe_load(text) == wanted:
            return text
    raise UserError(f"params.yaml can't be edited here; write by hand: train: {values}")


def end_of(node: yaml.Node) -> int:
    """Where the text of a value ends; of a list on several lines, where its last item does."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return end_of(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)
