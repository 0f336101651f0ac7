"""What the demo concludes: from what was sent and stored, and from how far the pipeline is."""

from __future__ import annotations

from dataclasses import replace

from services.cli.demo.books import Usage
from services.cli.demo.verdict import compare_usage
from services.cli.demo.watch import Progress

DONE = Progress(
    position=100,
    announced=7,
    stored=90,
    aggregated_messages=7,
    aggregated=90,
    rated_messages=7,
    rated=90,
    ingest_outbox=0,
    aggregator_outbox=0,
    billing_outbox=0,
    unsettled=0,
    attributable=0,
    unpublished_statuses=0,
)


def test_equal_sums_do_not_hide_that_one_got_what_is_anothers() -> None:
    sent = {"a": Usage(requests=2, request_tokens=10), "b": Usage(requests=1, request_tokens=5)}
    swapped = {"a": Usage(requests=1, request_tokens=10), "b": Usage(requests=2, request_tokens=5)}

    assert all(check.holds for check in compare_usage(sent, sent))
    requests, *others = compare_usage(sent, swapped)
    assert requests.left == requests.right
    assert not requests.holds
    assert requests.differing == ("subscription a: 2 sent, 1 stored", "subscription b: 1 sent, 2 stored")
    assert all(check.holds for check in others)


def test_usage_of_somebody_to_whom_nothing_was_sent_is_found() -> None:
    requests, *_ = compare_usage({}, {"a": Usage(requests=1)})

    assert requests.differing == ("subscription a: 0 sent, 1 stored",)


def test_caught_up_means_that_no_stage_has_anything_left_to_do() -> None:
    assert DONE.missing(end=100) == []
    assert DONE.missing(end=1_200) == ["1,100 records to be read by ingest"]
    assert replace(DONE, rated_messages=5, billing_outbox=3).missing(end=100) == [
        "2 messages to be rated by billing",
        "3 messages in the outbox of billing",
    ]
