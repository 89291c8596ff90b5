"""Ids that every replica knows again, and nobody else can make."""

import pytest
from tabloop.serving.prediction_ids import BLOCK, PredictionIds

REPLICA, OTHER = PredictionIds("secret"), PredictionIds("another")


def together(n: int) -> list[str]:
    return list(REPLICA.draw_together(n).to_pylist())


@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 1000])
@pytest.mark.parametrize("draw", [REPLICA.draw, together], ids=["apart", "together"])
def test_an_id_is_known_by_all_with_the_secret_and_by_nobody_else(draw: object, n: int) -> None:
    assert callable(draw)
    ids = draw(n)
    assert len({*ids}) == n and {len(id) for id in ids} == {32}
    again = PredictionIds("secret")  # after a restart
    assert all(map(again.given, ids))
    assert not any(map(OTHER.given, ids))
    for changed in (0, 15, 16, 23, 24, 31):  # a digit of each part
        assert not any(
            again.given(f"{id[:changed]}{int(id[changed], 16) ^ 1:x}{id[changed + 1 :]}") for id in ids[:50]
        )


def test_rows_of_different_clients_share_nothing_that_could_be_guessed() -> None:
    assert len({id[:16] for id in REPLICA.draw(100)}) == 100
    assert len({id[:16] for id in together(100)}) == 1
