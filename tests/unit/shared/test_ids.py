"""Identifiers: the identity of an event is its source and id, and nothing else shares it."""

from __future__ import annotations

import uuid

from hypothesis import example, given
from hypothesis import strategies as st

from shared.ids import EVENT_NAMESPACE, event_id, event_key, uuid7, uuid_of_bytes

texts = st.text(alphabet=st.sampled_from("a1:/é\U0001f600"), max_size=6)


@given(texts, texts, texts, texts)
@example("a", "b:c", "a:b", "c")
@example("1", ":1", "11", ":")
@example("", "1:a", "1", "a")
@example("é", "x", "é", "x")
def test_two_identities_share_an_id_only_if_they_are_the_same(source: str, id_: str, source2: str, id2: str) -> None:
    assert (event_id(source, id_) == event_id(source2, id2)) == ((source, id_) == (source2, id2))


def test_the_stored_id_is_the_uuid5_that_anyone_can_compute() -> None:
    namespace = uuid.UUID(str(EVENT_NAMESPACE))

    assert event_id("/gateways/eu-1", "req-7f3c") == uuid.uuid5(namespace, "14:/gateways/eu-1:req-7f3c")
    assert event_id("/gateways/eu-1", "req-7f3c").version == 5
    assert event_key("é", "1") == uuid.uuid5(namespace, "1:é:1").bytes, "lengths count characters"


def test_bytes_spell_the_same_uuid_fast_and_slow() -> None:
    key = event_key("s", "1")

    assert uuid_of_bytes(key) == uuid.UUID(bytes=key)
    assert hash(uuid_of_bytes(key)) == hash(uuid.UUID(bytes=key))
    assert isinstance(uuid_of_bytes(key), uuid.UUID)


def test_new_ids_are_in_the_order_of_making() -> None:
    made = [uuid7() for _ in range(20_000)]

    assert made == sorted(made), "the outbox is published in the order of its ids"
    assert len(set(made)) == len(made)
    assert {id_.version for id_ in made} == {7}
    assert isinstance(made[0], uuid.UUID)
