"""Payloads of LiteLLM as its version 1.108 makes them, shortened to what the plug-in reads and what it must not keep."""

from __future__ import annotations

from typing import Any

CALL_ID = "1f939aff-deae-4c87-82b5-dad77226dc68"
KEY_HASH = "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"


def payload(**changes: Any) -> dict[str, Any]:
    """A `standard_logging_object` of a successful chat; `metadata` adds to its metadata."""
    metadata = {
        "user_api_key_hash": KEY_HASH,
        "user_api_key_alias": "crm",
        "user_api_key_team_id": "team-1",
        "user_api_key_user_id": "ada",
        "requester_metadata": {"project": "p-1", "prompt": "a secret"},
        "usage_object": {
            "prompt_tokens": 812,
            "completion_tokens": 164,
            "prompt_tokens_details": {"cached_tokens": 512},
        },
        **changes.pop("metadata", {}),
    }
    return {
        "id": "chatcmpl-6b6c3173",
        "litellm_call_id": CALL_ID,
        "trace_id": "68e6f1f1",
        "call_type": "acompletion",
        "status": "success",
        "custom_llm_provider": "openai",
        "startTime": 1795823825.0,
        "endTime": 1795823826.24,
        "model": "openai/gpt-4o-mini",
        "model_group": "chat",
        "metadata": metadata,
        "prompt_tokens": 812,
        "completion_tokens": 164,
        "total_tokens": 976,
        "cache_hit": None,
        "stream": None,
        "end_user": "u-1",
        "session_id": "s-1",
        "messages": [{"role": "user", "content": "a secret"}],
        "response": {"choices": [{"message": {"content": "a secret"}}]},
        "error_information": {"error_code": "", "error_class": "", "llm_provider": "", "error_message": ""},
        "hidden_params": {"batch_models": None, "usage_object": None},
        **changes,
    }


def failure(**changes: Any) -> dict[str, Any]:
    """The same of a call that failed."""
    error = {
        "error_code": "429", "error_class": "RateLimitError", "llm_provider": "openai",
        "error_message": "a secret", "normalized_error": "429_RATE_LIMIT_EXCEEDED",
    }  # fmt: skip
    failed = payload(
        status="failure", prompt_tokens=0, completion_tokens=0, error_information=error, error_str="a secret"
    )
    return failed | changes


def kwargs(content: dict[str, Any], nonce: str | None = None, **metadata: Any) -> dict[str, Any]:
    """What a callback gets."""
    marked = {"tallystick_request": nonce} if nonce else {}
    return {
        "litellm_call_id": CALL_ID,
        "standard_logging_object": content,
        "litellm_params": {"metadata": {**marked, **metadata}},
    }
