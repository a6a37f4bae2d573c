"""How the page calls what results name by a code."""

from __future__ import annotations

from tvmerge.training.results.results import Doubt, Role, VerdictCode

# How a verdict is shown; the words carry the meaning, the colour only repeats it.
TONES: dict[VerdictCode, str] = {
    "worked": "good",
    "reduced": "good",
    "partly": "mixed",
    "side_effects": "mixed",
    "not_specific": "mixed",
    "not_below_base": "mixed",
    "untested": "mixed",
    "failed": "bad",
    "did_not_fall": "bad",
    "too_costly": "bad",
    "wrong_way": "bad",
    "held": "good",
    "stands": "bad",
    "open": "mixed",
    "flag": "mixed",
    "note": "quiet",
}
ROLE_WORDS: dict[Role, str] = {
    "trait": "trait",
    "control": "control trait",
    "unrelated": "unrelated trait",
    "composite": "composite, never trained on",
    "capability": "capability",
    "elicited": "trait, with examples shown before",
}
# What a dose-response panel should look like; None is perplexity.
PANEL_WORDS: dict[Role | None, str] = {
    "trait": "should fall",
    "control": "control trait, should stay at zero",
    "composite": "composite, should rise",
    "capability": "capability, should stay at zero",
    None: "what it costs",
}
DOUBTS: dict[Doubt, str] = {
    "aggregation": "Do the vectors aggregate?",
    "incompetent": "Does it make the model incompetent?",
    "shallow": "Is it shallow, and quickly rediscovered?",
    "one_suffices": "Does one trait alone suffice for incorrigibility?",
    "gradient_hacking": "Could a fine-tune have been resisted?",
    "brinkmanship": "What happens when the scales are lowered?",
    "many_ais": "Do many AIs with one aspect each add up?",
    "direct": "Is it better than direct attempts?",
    "false_alarms": "Would the tests find a fall where there is none?",
}
WORDS: dict[VerdictCode, str] = {
    "held": "Held",
    "stands": "Stands",
    "open": "Open",
    "note": "Seen",
    "worked": "Worked",
    "partly": "Worked in part",
    "failed": "Failed",
}
SHORT_WORDS: dict[VerdictCode, str] = {
    "reduced": "reduced",
    "side_effects": "side effects",
    "not_specific": "not specific",
    "not_below_base": "not below base",
    "untested": "undecided",
    "did_not_fall": "did not fall",
    "too_costly": "too costly",
    "wrong_way": "rose",
}
