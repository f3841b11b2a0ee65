"""Who asks a platform that is out: nobody for a while, and then one query at a time."""

from __future__ import annotations

from loyal.app.outage import Outage


class Hand:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def started() -> tuple[Outage, Hand]:
    """An outage of ten seconds that has just begun."""
    hand = Hand()
    outage = Outage(10.0, hand)
    assert [outage.asks(), outage.asks()] == [True, True]  # all ask while it is up
    outage.began()
    return outage, hand


def test_nobody_asks_for_a_while_and_then_one_does() -> None:
    outage, hand = started()
    hand.now += 9.9
    assert not outage.asks()
    hand.now += 0.1
    assert [outage.asks(), outage.asks(), outage.asks()] == [True, False, False]
    outage.began()
    hand.now += 9.9
    assert not outage.asks()
    hand.now += 0.1
    assert outage.asks()


def test_once_it_answers_all_ask() -> None:
    outage, hand = started()
    hand.now += 10
    assert outage.asks()
    outage.over()
    assert [outage.asks(), outage.asks()] == [True, True]


def test_who_asked_and_went_away_holds_up_nobody() -> None:
    outage, hand = started()
    hand.now += 10
    assert [outage.asks(), outage.asks()] == [True, False]
    outage.unknown()
    assert [outage.asks(), outage.asks()] == [True, False]
