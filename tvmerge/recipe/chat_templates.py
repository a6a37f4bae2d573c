"""Chat templates: those known by name, that of a recipe's text, and the one that most models have.

Jinja, as `apply_chat_template` of transformers renders it: blocks take the newline behind them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvmerge.checkpoints.tokenizer_files import (
    CONFIG,
    TEMPLATE,
    TEMPLATES,
    TokenizerFiles,
    json_of,
    matches,
    to_json,
)
from tvmerge.errors import did_you_mean
from tvmerge.files.untrusted import shown
from tvmerge.recipe.reading import Reader

AUTO = "auto"

_ALPACA = """\
{% for message in messages %}
{% if message['role'] == 'system' %}
{{ message['content'] | trim }}
{% elif message['role'] == 'user' %}
### Instruction:
{{ message['content'] | trim }}
{% elif message['role'] == 'user_context' %}
### Input:
{{ message['content'] | trim }}
{% else %}
### Response:
{{ message['content'] | trim }}
{% endif %}

{% endfor %}
{% if add_generation_prompt %}
### Response:
{% endif %}"""
_CHATML = """\
{% for message in messages %}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""
_EXAONE = """\
{% if messages[0]['role'] != 'system' %}
[|system|][|endofturn|]
{% endif %}
{% for message in messages %}
{% set end = '' if message['role'] == 'user' else '[|endofturn|]' %}
[|{{ message['role'] }}|]{{ message['content'] }}{{ end }}
{% endfor %}
{% if add_generation_prompt %}[|assistant|]{% endif %}"""
_LLAMA3 = """\
{{ bos_token }}{% for message in messages %}
<|start_header_id|>{{ message['role'] }}<|end_header_id|>

{{ message['content'] | trim }}<|eot_id|>{% endfor %}
{% if add_generation_prompt %}
<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
_MISTRAL = """\
{% set system = messages[0]['content'] + '\\n\\n' if messages[0]['role'] == 'system' else '' %}
{{ bos_token }}{% for message in (messages[1:] if system else messages) %}
{% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}
{{ raise_exception('user and assistant have to take turns, the user first') }}
{% elif message['role'] == 'user' %}
{{ ' [INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}{% else %}
{{ ' ' + message['content'] + eos_token }}{% endif %}
{% endfor %}"""
NAMED = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}


def read_template(reader: Reader, value: Any) -> str | None:
    """AUTO, or a template's text; None where none is named. Notes what is neither."""
    text = None if value is None else reader.text(value, ("chat_template",))
    if text is None or text == AUTO or "{" in text:
        return text
    if text not in NAMED:
        known = (AUTO, *NAMED)
        what = f"expected {', '.join(known)} or a template's text in Jinja, found {shown(text)}."
        reader.fault(("chat_template",), f"{what}{did_you_mean(text, known)}")
    return NAMED.get(text)


def most_common(models: Iterable[tuple[Path, Mapping[str, bytes]]]) -> str | None:
    """The template of most tokenizers, of several such the first; None where none has one.

    Each is a folder and what the files there hold.
    """
    found = Counter(text for one in models if (text := _own(*one)))
    return max(found, key=lambda text: found[text], default=None)


def with_template(
    tokenizer: TokenizerFiles, place: Path, donors: Mapping[str, bytes], template: str
) -> TokenizerFiles:
    """The tokenizer with the template in place of all others; `donors` are the files at `place`."""
    kept = {name: data for name, data in tokenizer.files.items() if not matches(name, TEMPLATES)}
    instead_of = (*tokenizer.instead_of, *TEMPLATES)
    config = json_of(place, tokenizer.beside(donors), CONFIG)
    if config.pop("chat_template", None) is not None:
        kept[CONFIG] = to_json(config)
        instead_of += (CONFIG,)
    return replace(tokenizer, files=kept | {TEMPLATE: template.encode()}, instead_of=instead_of)


def _own(place: Path, files: Mapping[str, bytes]) -> str | None:
    """The template of a tokenizer; of several the one that is called default."""
    if TEMPLATE in files:
        return files[TEMPLATE].decode(errors="replace").strip()
    found = json_of(place, files, CONFIG).get("chat_template")
    if isinstance(found, list):
        named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
        found = named[0].get("template") if named else None
    return found.strip() if isinstance(found, str) else None
