"""A provider's usage export: read in three formats, brought to one, and compared by model and day."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from services.billing.reconciliation.provider_exports.export import (
    Difference,
    ExportRefused,
    Usage,
    compare,
    read_export,
    rename,
)

DAY = date(2026, 11, 1)
OPENAI = """start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,model,batch,input_tokens,\
output_tokens,input_cached_tokens
1793491200,1793577600,2026-11-01T00:00:00+00:00,2026-11-02T00:00:00+00:00,p,3,,,gpt-4o-2024-08-06,,1000,200,400
1793491200,1793577600,2026-11-01T00:00:00+00:00,2026-11-02T00:00:00+00:00,q,2,,,gpt-4o-2024-08-06,,500,100,0
1793577600,1793664000,2026-11-02T00:00:00+00:00,2026-11-03T00:00:00+00:00,,,,,,,,,
"""
ANTHROPIC = """usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,\
usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,web_search_count
2026-11-01,claude-sonnet-4-20250514,key,Default,standard,200k,100,20,3,1000,50,0
"""


def test_openais_export_is_summed_by_model_and_day() -> None:
    export = read_export(OPENAI)
    assert export.provider == "openai"
    assert export.days == {
        (DAY, "gpt-4o-2024-08-06"): Usage(requests=5, input_tokens=1500, cached_tokens=400, output_tokens=300)
    }


def test_anthropics_input_tokens_are_normalised_to_include_the_cache() -> None:
    export = read_export(ANTHROPIC)
    assert export.provider == "anthropic"
    (usage,) = export.days.values()
    assert usage == Usage(input_tokens=1123, cached_tokens=1000, output_tokens=50)


def test_a_plain_file_may_state_less_and_costs() -> None:
    export = read_export("\ufeffdate,model,input_tokens,cost\n2026-11-01,m,10,0.25\n2026-11-01,m,5,0.05\n")
    assert export.days == {(DAY, "m"): Usage(input_tokens=15, cost=Decimal("0.30"))}
    assert export.span == (DAY, DAY)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "its header is neither"),
        ("a,b\n1,2\n", "its header is neither"),
        ("date,model\n", "holds no usage"),
        ("date,model,requests\n2026-11-01,m,some\n", "line 2: requests is 'some'"),
        ("date,model,requests\n2026-11-01,m,-1\n", "line 2: requests is '-1'"),
        ("date,model,cost\n2026-11-01,m,NaN\n", "line 2: cost is 'NaN'"),
        ("date,model,requests\nyesterday,m,1\n", "line 2: 'yesterday' is no date"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(ExportRefused, match=complaint):
        read_export(text)


def test_versions_of_models_take_our_name() -> None:
    days = {
        (DAY, name): Usage(requests=1) for name in ("gpt-4o-2024-08-06", "gpt-4o", "claude-sonnet-4-20250514", "o9")
    }
    renamed = rename(days, ["gpt-4o", "claude-sonnet-4", "claude"], {"o9": "ours"})
    assert {name: usage.requests for (_, name), usage in renamed.items()} == {
        "gpt-4o": 2,
        "claude-sonnet-4": 1,
        "ours": 1,
    }


def test_a_version_that_is_known_by_its_own_name_keeps_it() -> None:
    days = {(DAY, "gpt-4o-2024-08-06"): Usage(requests=1)}
    assert rename(days, ["gpt-4o", "gpt-4o-2024-08-06"], {}) == days


def test_only_what_they_state_is_compared_and_the_largest_comes_first() -> None:
    theirs = {(DAY, "a"): Usage(input_tokens=100, output_tokens=10), (DAY, "b"): Usage(input_tokens=7, output_tokens=0)}
    ours = {
        (DAY, "a"): Usage(requests=3, input_tokens=90, output_tokens=10),
        (DAY, "c"): Usage(input_tokens=1, requests=1),
    }
    assert compare(theirs, ours) == [
        Difference(DAY, "b", "input_tokens", 7, 0),
        Difference(DAY, "c", "input_tokens", 0, 1),
        Difference(DAY, "a", "input_tokens", 100, 90),
    ]
    assert [d.model for d in compare(theirs, ours, tolerance=Decimal("0.1"))] == ["b", "c"]


def test_what_is_the_same_does_not_differ() -> None:
    days = {(DAY, "a"): Usage(1, 2, 3, 4, Decimal("0.50"))}
    assert compare(days, {(DAY, "a"): Usage(1, 2, 3, 4, Decimal("0.5"))}) == []
