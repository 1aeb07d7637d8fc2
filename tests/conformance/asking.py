"""Tools that ask their client in the middle of a call, by rounds (2026-07-28): a call answers with what it needs and is
made again. Where the connection is of an older revision, `settled` asks by requests instead.
"""

from __future__ import annotations

import json
from typing import Any

import mcp_types as types

from tests.conformance.fixtures import Answer, Context, strings, text, tools

# What a person said, as the suite reads it in the answer.
DEFAULTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "User name", "default": "John Doe"},
        "age": {"type": "integer", "description": "User age", "default": 30},
        "score": {"type": "number", "description": "User score", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "description": "Verified", "default": True},
    },
    "required": [],
}
ENUMS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {
            "type": "string",
            "oneOf": [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)],
        },
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {
            "type": "array",
            "items": {"anyOf": [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]},
        },
    },
    "required": [],
}
NAME, CONFIRM = strings("name"), {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


def sample(words: str, tokens: int = 50) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=text(words))
    return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=tokens))


def ask(message: str, schema: dict[str, Any]) -> types.ElicitRequest:
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def asks(state: str | None = None, **requests: Any) -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests=requests, request_state=state)


def said(answer: object, name: str) -> object:
    """One member of a form that was filled in."""
    return answer.content.get(name) if isinstance(answer, types.ElicitResult) and answer.content else None


@tools.tool("test_sampling", "Asks the client's model", strings("prompt"))
async def _sampling(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    answer = (params.input_responses or {}).get("model")
    if not isinstance(answer, types.CreateMessageResult):
        return asks(model=sample(str((params.arguments or {}).get("prompt")), 100))
    words = answer.content.text if answer.content.type == "text" else "nothing in words"
    return f"LLM response: {words}"


def _elicited(params: types.CallToolRequestParams, words: str, message: str, schema: dict[str, Any]) -> Answer:
    answer = (params.input_responses or {}).get("person")
    if not isinstance(answer, types.ElicitResult):
        return asks(person=ask(message, schema))
    return f"{words}: action={answer.action}, content={json.dumps(answer.content or {})}"


@tools.tool("test_elicitation", "Asks the person", strings("message"))
async def _elicitation(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    message = str((params.arguments or {}).get("message"))
    return _elicited(params, "User response", message, strings("username", "email"))


@tools.tool("test_elicitation_sep1034_defaults", "Asks the person, with defaults of every type (SEP-1034)")
async def _defaults(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return _elicited(params, "Elicitation completed", "Please provide user information", DEFAULTS)


@tools.tool("test_elicitation_sep1330_enums", "Asks the person to choose (SEP-1330)")
async def _enums(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    return _elicited(params, "Elicitation completed", "Please choose", ENUMS)


@tools.tool("test_input_required_result_elicitation", "One question to the person")
async def _one_question(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    answers = params.input_responses or {}
    if "user_name" not in answers:
        return asks(user_name=ask("What is your name?", NAME))
    return f"Hello, {said(answers['user_name'], 'name')}!"


@tools.tool("test_streaming_elicitation", "One question to the person, after progress")
async def _streaming(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    await ctx.session.report_progress(1, 2, "Asking")
    return await _one_question(ctx, params)


@tools.tool("test_input_required_result_sampling", "One question to the model")
async def _one_sample(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    answer = (params.input_responses or {}).get("capital_question")
    if answer is None:
        return asks(capital_question=sample("What is the capital of France?", 100))
    words = answer.content.text if isinstance(answer, types.CreateMessageResult) else "nothing"
    return f"Model said: {words}"


@tools.tool("test_input_required_result_list_roots", "Asks for the client's roots")
async def _roots(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    answer = (params.input_responses or {}).get("client_roots")
    if answer is None:
        return asks(client_roots=types.ListRootsRequest())
    return f"Client exposed {len(answer.roots) if isinstance(answer, types.ListRootsResult) else 0} root(s)."


@tools.tool("test_input_required_result_request_state", "Keeps its state with the client")
async def _state(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    if "confirm" in (params.input_responses or {}) and params.request_state == "request-state-nonce":
        return "state-ok: confirmation received"
    return asks("request-state-nonce", confirm=ask("Please confirm", CONFIRM))


@tools.tool("test_input_required_result_multiple_inputs", "Asks person, model and client at once")
async def _several(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    if {"user_name", "greeting", "client_roots"} <= (params.input_responses or {}).keys():
        return "All inputs received."
    return asks(
        "multiple-inputs",
        user_name=ask("What is your name?", NAME),
        greeting=sample("Generate a greeting"),
        client_roots=types.ListRootsRequest(),
    )


@tools.tool("test_input_required_result_multi_round", "Asks twice, one after the other")
async def _rounds(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    state = json.loads(params.request_state) if params.request_state else {"round": 0}
    answers = params.input_responses or {}
    if state["round"] == 1 and "step1" in answers:
        kept = json.dumps({"round": 2, "name": said(answers["step1"], "name")})
        return asks(kept, step2=ask("Step 2: What is your favorite color?", strings("color")))
    if state["round"] == 2 and "step2" in answers:
        return f"{state['name']} likes {said(answers['step2'], 'color')}."
    return asks(json.dumps({"round": 1}), step1=ask("Step 1: What is your name?", NAME))


@tools.tool("test_input_required_result_tampered_state", "Refuses a state that is not as it was given")
async def _tampered(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    if params.request_state is None:
        return asks("round-1", confirm=ask("Please confirm", CONFIRM))
    return f"state-ok: {params.request_state}"


@tools.tool("test_input_required_result_capabilities", "Asks only for what the client declared")
async def _declared(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    if params.input_responses:
        return "All that could be asked was answered."
    declared = ctx.session.client_capabilities
    requests: dict[str, Any] = {}
    if declared is None or declared.sampling is not None:
        requests["sample"] = sample("Say hello")
    if declared is None or declared.elicitation is not None:
        requests["ask"] = ask("What is your name?", NAME)
    return asks("capability-gated", **requests)
