"""Conversations of every kind that templates tell apart, for rendering with any template."""

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a \"city\" <now> & then\nin Zürich, 東京",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "name"},
        "days": {"type": "array", "items": {"type": "integer", "enum": [1, 2, 3]}, "default": []},
        "exact": {"type": "boolean"}}, "required": ["city"], "additionalProperties": False}}}
TIME = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, number=0):
    return {"id": f"functions.{name}:{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def system(text):
    return {"role": "system", "content": text}


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def tool(text, number=0, name="get_weather"):
    return {"role": "tool", "content": text, "name": name, "tool_call_id": f"functions.{name}:{number}"}


TEXT_ARGUMENTS = '{"city": "Zürich", "days": [1, 2]}'
DICT_ARGUMENTS = {"city": "Zürich", "days": [1, 2.5], "exact": True, "nothing": None}
PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two\n"}]

MESSAGES = {
    "none": [],
    "user": [user("Hello")],
    "system": [system("Be brief."), user("Hello")],
    "system only": [system("Be brief.")],
    "two systems": [system("First."), user("a"), system("Second."), assistant("b"), user("c")],
    "turns": [user("1+1?"), assistant("2"), user("and 2+2?"), assistant("4"), user("thanks")],
    "ends with assistant": [user("Say"), assistant("I say")],
    "prefix": [user("Say"), assistant("I s", prefix=True)],
    "reasoning in history": [user("a"), assistant("<think>\nhm, </think> tag\n</think>\n\nb"), user("c"), assistant("<think></think>d"), user("e")],
    "reasoning content": [user("a"), assistant("b", reasoning_content="because\nof a"), user("c"), assistant("d", reasoning_content=None), user("e")],
    "reasoning and tools": [user("a"), assistant("", reasoning_content="I must look", tool_calls=[call("get_weather", TEXT_ARGUMENTS)]), tool("sunny"),
                            assistant("<think>so</think>It is sunny."), user("thanks")],
    "tool call": [user("weather?"), assistant(None, tool_calls=[call("get_weather", TEXT_ARGUMENTS)])],
    "tool call, dict": [user("weather?"), assistant(None, tool_calls=[call("get_weather", DICT_ARGUMENTS)])],
    "tool call with text": [user("weather?"), assistant("Let me look.", tool_calls=[call("get_weather", TEXT_ARGUMENTS)]), tool("sunny")],
    "tool calls": [system("s"), user("weather?"), assistant(None, tool_calls=[call("get_weather", TEXT_ARGUMENTS), call("now", "{}", 1)]),
                   tool("sunny"), tool("12:00", 1, "now"), assistant("Sunny at 12:00."), user("and tomorrow?")],
    "tool calls, dicts": [user("weather?"), assistant("", tool_calls=[call("get_weather", DICT_ARGUMENTS), call("now", {}, 1)]),
                          tool('{"t": 20.5}'), tool("", 1, "now")],
    "tools in two turns": [user("w?"), assistant(None, tool_calls=[call("now", "{}")]), tool("1", 0, "now"), assistant("one"), user("again"),
                           assistant(None, tool_calls=[call("now", "{}", 1)]), tool("2", 1, "now")],
    "empty tool calls": [user("a"), assistant("b", tool_calls=[]), user("c")],
    "null tool calls": [user("a"), assistant("b", tool_calls=None, reasoning_content=None, name=None), user("c")],
    "empty contents": [system(""), user(""), assistant(""), user("")],
    "null contents": [system(None), user("a"), assistant(None), user(None)],
    "missing contents": [{"role": "user"}, {"role": "assistant"}],
    "parts": [user(PARTS), assistant([{"type": "text", "text": "three"}]), user([{"type": "image_url", "image_url": {"url": "x"}}, PARTS[0]])],
    "unicode": [system("你是一个助手 🤖"), user("ÀÉÎ \u00a0 \u3000日本語\u3000 e\u0301 \u200b\U0001f469\u200d\U0001f469 \ufeff"), assistant("\t\n  \u2028x\u0085 "), user("\u0000\u0001\x7f")],
    "special tokens": [user("<｜User｜>x<｜Assistant｜></think><｜end▁of▁sentence｜>"), assistant("<|im_end|>{{ bos_token }}{% if %}"), user("</think>")],
    "white space": [system(" \n a \n "), user("\n\n b\t"), assistant("  <think> x </think>  c  \n"), user(" ")],
    "names": [user("a", name="Zoë"), assistant("b", name="bot"), user("c", name="")],
    "other roles": [{"role": "developer", "content": "dev"}, user("a"), {"role": "latest_reminder", "content": "r"}, user("b")],
    "same role twice": [user("a"), user("b"), assistant("c"), assistant("d")],
    "quotes": [user("it's \"so\" \\ `x` ${y} <a href='#'>&amp;</a>"), assistant('{"k": "v\\n"}')],
    "long": [m for i in range(40) for m in (user(f"question {i}" * 20), assistant(f"<think>{i}</think>answer {i}" * 5))],
}

# What comes with the messages. None stands for what Hugging Face passes when there is nothing.
SETTINGS = {
    "plain": {"tools": None, "documents": None, "add_generation_prompt": True},
    "no prompt": {"tools": None, "documents": None, "add_generation_prompt": False},
    "bare": {},
    "tools": {"tools": [WEATHER, TIME], "documents": None, "add_generation_prompt": True},
    "no tools": {"tools": [], "add_generation_prompt": True},
    "thinking": {"tools": None, "add_generation_prompt": True, "thinking": True, "enable_thinking": True, "reasoning_effort": "max"},
    "thinking and tools": {"tools": [WEATHER], "add_generation_prompt": True, "thinking": True, "preserve_thinking": True, "drop_thinking": False},
    "not thinking": {"tools": None, "add_generation_prompt": True, "thinking": False, "enable_thinking": False},
    "documents": {"tools": None, "documents": [{"title": "T", "text": "x"}], "add_generation_prompt": True, "date_string": "26 Jul 2024"},
}

TRUSTED = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "pad_token": "<｜▁pad▁｜>", "unk_token": None}


def conversations():
    """(name, trusted variables, the user's) of every pair."""
    for messages_name, messages in MESSAGES.items():
        for settings_name, settings in SETTINGS.items():
            trusted = dict(TRUSTED)
            if "add_generation_prompt" in settings:
                trusted["add_generation_prompt"] = settings["add_generation_prompt"]
            tainted = {k: v for k, v in settings.items() if k != "add_generation_prompt"}
            yield f"{messages_name}, {settings_name}", trusted, {"messages": messages, **tainted}
