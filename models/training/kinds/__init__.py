"""The kinds of text in the corpus.

Each subject has two functions of a random source: `plain(rng)` returns a
document, `chat(rng)` returns a request and its answer. `tools` has
`conversation(rng)` in their place, which returns messages and the tools offered;
`drills` as well.
"""

from . import arithmetic, drills, lists, questions, recipe, records, story, tools, weather

SUBJECTS = {
    "story": story,
    "arithmetic": arithmetic,
    "weather": weather,
    "recipe": recipe,
    "json": records,
    "questions": questions,
}
KINDS = {**SUBJECTS, "tools": tools, "lists": lists, "drills": drills}
