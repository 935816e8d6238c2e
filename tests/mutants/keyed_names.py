"""Mutants of how the policies of a Keyed name their key."""

from __future__ import annotations

from . import Mutant

_KEYED, _POLICY = "resilience/keyed.py", "resilience/_policy.py"


def _named(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(f"key names: {name}", file, old, new, ("tests/test_keyed_names.py",))


MUTANTS: list[Mutant] = [
    _named("keys share one state", _KEYED, "for _, name in states & machine.owners.keys():", "for _, name in ():"),
    _named("nobody notes the shared states", "resilience/store.py", "if noted is not None:", "if False:"),
    _named("stores are not told apart", "resilience/store.py", "noted.add((value, name))", "noted.add((None, name))"),
    _named("a forgotten key keeps its name", "resilience/_directory.py", "self.owners.pop(state, None)", "pass"),
    _named("a new key owns nothing", "resilience/_directory.py", "dict.fromkeys(entry.states, entry.key)", "()"),
    _named(
        "nothing is named",
        _KEYED,
        "            made = made._changed(lambda layer: _labelled(layer, self.name, key))\n",
        "",
    ),
    _named("a fixed name is changed", _KEYED, 'or "name" not in layer._variable', ""),
    _named("another Keyed's policy is renamed", _KEYED, " or layer._belongs_to is not None", ""),
    _named("lines are broken", _KEYED, 'character if character.isprintable() else "?"', "character"),
    _named("texts stand in quotes", _KEYED, "        told = key  # in full", "        pass  # in full"),
    _named("odd texts stand without quotes", _KEYED, "key.isprintable() and told", "told"),
    _named("long texts are told in full", _KEYED, " and told == repr(key):", ":"),
    _named(
        "a policy named after its key says it twice",
        _KEYED,
        "keyed if layer.name is not None and layer.name in (key, told) else",
        "",
    ),
    _named("only the repr of a key is known", _KEYED, "layer.name in (key, told)", "layer.name == key"),
    _named("the Keyed comes first", _KEYED, 'layer.name or keyed or "keyed"', 'keyed or layer.name or "keyed"'),
    _named("events do not have the key", _KEYED, "    variant._belongs_to = key\n", ""),
    _named("a limiter's own key is lost", _POLICY, '            if facts.get("key") is None:\n', ""),
    _named(
        "a pipeline hides its layers",
        "resilience/pipeline.py",
        "layers=tuple(layer._changed(change) for layer in self.layers)",
        "layers=self.layers",
    ),
    _named("before_retry is not told the key", "resilience/_attempts.py", "key=retry._belongs_to, ", ""),
]
