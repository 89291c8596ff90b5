"""The example's data: a seeded simulator of card users, their transactions and the fraud among them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tabloop.cli import UserError
from tabloop.progress import progress

COUNTRIES = {"DE": 0.3, "FR": 0.2, "GB": 0.2, "NL": 0.1, "PL": 0.1, "US": 0.1}
CATEGORIES = {  # share of ordinary transactions, typical amount
    "electronics": (0.08, 180.0),
    "fashion": (0.12, 70.0),
    "fuel": (0.12, 55.0),
    "gift_cards": (0.03, 60.0),
    "groceries": (0.38, 45.0),
    "restaurants": (0.22, 35.0),
    "travel": (0.05, 320.0),
}
CHANNELS = {"atm": 0.05, "in_store": 0.6, "online": 0.35}
NAMES = np.array(list(CATEGORIES))
DAY = 86_400.0
BLOCK = 250_000  # transactions drawn at once, with users of their own: memory is bounded


class Simulator(BaseModel):
    """`data.simulator` in params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int
    transactions: int = Field(ge=1000)
    users: int = Field(ge=10)
    start: str
    days: int = Field(ge=1)


def simulate(arguments: dict[str, Any]) -> Iterator[dict[str, pd.DataFrame]]:
    """Draw the raw tables `users` and `events`, block by block; the same arguments give the same rows.

    Three patterns of fraud: bursts on a stolen card, single amounts far above the user's habit, and abuse of
    freshly opened accounts. A tenth of it hides among ordinary amounts. The label of a transaction arrives
    days later; those that have not arrived when the window ends are missing, as in life.

    Raises:
        UserError: an argument is missing, unknown or out of range.
    """
    try:
        params = Simulator.model_validate(arguments)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UserError(f"params.yaml: data.simulator.{wrong['loc'][0]}: {wrong['msg']}") from None
    blocks = max(1, min(-(-params.transactions // BLOCK), params.users // 100))
    first, user = (np.linspace(0, n, blocks + 1).astype(int) for n in (params.transactions, params.users))
    with progress(f"ingest: {params.transactions:,} transactions", params.transactions) as bar:
        for i in range(blocks):
            sizes = {"transactions": int(first[i + 1] - first[i]), "users": int(user[i + 1] - user[i])}
            rng = np.random.default_rng([params.seed, i])
            yield _block(rng, params.model_copy(update=sizes), int(first[i]), int(user[i]))
            bar.update(sizes["transactions"])


def _block(
    rng: np.random.Generator, params: Simulator, transaction: int, user: int
) -> dict[str, pd.DataFrame]:
    """Some users and their events; `transaction` and `user` are the numbers of the first ones."""
    start, window = pd.Timestamp(params.start), params.days * DAY
    users = _users(rng, params.users, start, params.days, user)
    opened = (users.account_opened - start).dt.total_seconds().to_numpy()
    habit = rng.lognormal(0.0, 0.5, params.users)  # how much a user spends, relative to what is typical

    fraud = [_bursts(rng, params, window), _spikes(rng, params, window), _new_accounts(rng, params, opened)]
    frauds = pd.concat(fraud).query("second < @window").assign(is_fraud=1)
    ordinary = _ordinary(rng, params, window).assign(is_fraud=0)
    events = pd.concat([frauds, ordinary.iloc[: params.transactions - len(frauds)]], ignore_index=True)

    second = events.second.to_numpy()
    late = second <= opened[events.user]  # nobody pays before the account is open
    second = np.where(
        late, opened[events.user] + rng.uniform(0.01, 1, len(events)) * (window - opened[events.user]), second
    )
    typical = np.array([amount for _, amount in CATEGORIES.values()])[events.category]
    amount = typical * habit[events.user] * events.factor * rng.lognormal(0.0, 0.45, len(events))
    delay = rng.gamma(2.0, 3.0 * DAY, len(events))
    events = pd.DataFrame(
        {
            "user_id": users.user_id.to_numpy()[events.user],
            "timestamp": start + pd.to_timedelta(second.round(3), unit="s"),
            "amount": amount.round(2),
            "merchant_category": pd.Series(NAMES[events.category]).mask(rng.random(len(events)) < 0.01),
            "channel": events.channel,
            "is_fraud": np.where(second + delay > window, np.nan, events.is_fraud),
            "label_timestamp": start + pd.to_timedelta((second + delay).round(), unit="s"),
        }
    )
    events = events.sort_values("timestamp", kind="stable", ignore_index=True)
    events.insert(0, "transaction_id", [f"t{transaction + i:08d}" for i in range(len(events))])
    events["is_fraud"] = events.is_fraud.astype("Int64")
    return {"users": users, "events": events}


def _users(rng: np.random.Generator, n: int, start: pd.Timestamp, days: int, first: int) -> pd.DataFrame:
    age = np.clip(rng.normal(42, 15, n), 18, 95).round()
    opened = np.where(rng.random(n) < 0.25, rng.uniform(0, days * 0.9, n), rng.uniform(-1500, 0, n))
    return pd.DataFrame(
        {
            "user_id": [f"u{first + i:06d}" for i in range(n)],
            "age": pd.array(np.where(rng.random(n) < 0.02, np.nan, age), dtype="Int64"),
            "country": rng.choice(list(COUNTRIES), n, p=list(COUNTRIES.values())),
            "account_opened": (start + pd.to_timedelta(opened, unit="D")).floor("s"),
        }
    )


def _draw(
    rng: np.random.Generator, user: np.ndarray, second: np.ndarray, factor: np.ndarray, bold: bool
) -> pd.DataFrame:
    """Transactions of the given users, times and amounts relative to habit; `bold`: what resells well, online."""
    n = len(user)
    share = np.array([share for share, _ in CATEGORIES.values()])
    odd = np.array([0.35, 0.1, 0.05, 0.35, 0.03, 0.02, 0.1])
    channel = [0.04, 0.11, 0.85] if bold else list(CHANNELS.values())
    return pd.DataFrame(
        {
            "user": user,
            "second": second,
            "factor": factor,
            "category": rng.choice(len(CATEGORIES), n, p=odd if bold else share),
            "channel": rng.choice(list(CHANNELS), n, p=channel),
        }
    )


def _ordinary(rng: np.random.Generator, params: Simulator, window: float) -> pd.DataFrame:
    n = params.transactions
    activity = rng.lognormal(0.0, 0.8, params.users)
    user = rng.choice(params.users, n, p=activity / activity.sum())
    hour = np.clip(rng.normal(14, 4, n), 0, 23.99)
    second = rng.integers(0, params.days, n) * DAY + hour * 3600 + rng.uniform(0, 60, n)
    splurge = np.where(rng.random(n) < 0.01, rng.uniform(3, 8, n), 1.0)  # honest people do, too
    return _draw(rng, user, np.minimum(second, window - 1), splurge, bold=False)


def _bursts(rng: np.random.Generator, params: Simulator, window: float) -> pd.DataFrame:
    episodes = max(2, params.transactions // 500)
    size = rng.integers(3, 12, episodes)
    user = np.repeat(rng.integers(0, params.users, episodes), size)
    second = np.repeat(rng.uniform(0, window, episodes), size) + rng.uniform(0, 3600, size.sum())
    return _draw(rng, user, second, rng.uniform(0.6, 2.5, size.sum()), bold=True)


def _spikes(rng: np.random.Generator, params: Simulator, window: float) -> pd.DataFrame:
    n = max(5, params.transactions // 150)
    factor = np.where(rng.random(n) < 0.3, 1.0, rng.uniform(4, 15, n))  # some hide among ordinary amounts
    return _draw(rng, rng.integers(0, params.users, n), rng.uniform(0, window, n), factor, bold=True)


def _new_accounts(rng: np.random.Generator, params: Simulator, opened: np.ndarray) -> pd.DataFrame:
    fresh = np.flatnonzero(opened > 0)
    abused = rng.choice(fresh, max(1, len(fresh) // 4), replace=False)
    size = max(1, params.transactions // 200 // len(abused))
    user = np.repeat(abused, size)
    second = opened[user] + rng.exponential(5 * DAY, len(user))
    return _draw(rng, user, second, rng.uniform(0.8, 4, len(user)), bold=True)
