"""The fields of a request beside its messages, as the kind of server takes them."""

from __future__ import annotations

from dsv4_agent.backends.base import GenerationRequest
from dsv4_agent.backends.chat_server.manners import Manners, ThinkingKnob
from dsv4_agent.backends.profile import ServerProfile
from dsv4_agent.dsml.dialect import Thinking


def parameters(request: GenerationRequest, profile: ServerProfile, manners: Manners) -> dict[str, object]:
    """Stream, limits, sampling, thinking; the profile's own sampling goes before the preset's."""
    thinks = request.thinking is Thinking.THINKING and profile.effort != "none"
    limits = (request.max_tokens, profile.max_tokens, manners.most_tokens)
    fields: dict[str, object] = {
        "stream": True,
        "stream_options": {"include_usage": True} if manners.usage_option else None,
        manners.max_tokens: max(1, min(limit for limit in limits if limit is not None)),
        **_sampling(request, profile, manners),
        **_thinking(manners, thinks),
    }
    if manners.effort and thinks:
        fields["reasoning_effort"] = request.effort or profile.effort
    if manners.own_field:
        own = {"grammar": request.grammar.value, "thinking_budget": request.thinking_budget}
        fields["dsv4"] = {name: value for name, value in own.items() if value is not None}
    return {
        name: value for name, value in fields.items() if value is not None and name not in manners.refused
    }


def _sampling(request: GenerationRequest, profile: ServerProfile, manners: Manners) -> dict[str, object]:
    values: dict[str, float | None] = {
        "temperature": request.temperature if profile.temperature is None else profile.temperature,
        "top_p": request.top_p if profile.top_p is None else profile.top_p,
        "min_p": (request.min_p or None) if profile.min_p is None else profile.min_p,
        "seed": request.seed,
    }
    return {name: values[name] for name in manners.sampling}


def _thinking(manners: Manners, thinks: bool) -> dict[str, object]:
    match manners.thinking:
        case ThinkingKnob.TYPE:
            return {"thinking": {"type": "enabled" if thinks else "disabled"}}
        case ThinkingKnob.TEMPLATE:
            return {"chat_template_kwargs": {"thinking": thinks, "enable_thinking": thinks}}
        case ThinkingKnob.NONE:
            return {}
