r"""Ask a model short questions with a known answer, and write its replies for `benchmarks.compare_parsers --fresh`.

    uv run python -m benchmarks.fresh_replies --url http://127.0.0.1:8377/v1 --out /tmp/fresh

It writes `letters.jsonl`, `booleans.jsonl`, `words.jsonl` and `mathematics.jsonl`: 200 replies of each kind, about
arithmetic, algebra, words and common facts. Each question asks for its answer in one of eight forms.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

INSPECT_FORM = (
    "Be brief. The last line of your response should be of the following format: 'ANSWER: $ANSWER' (without quotes) "
    "where $ANSWER is the answer."
)
FORMS = (
    "",
    "Reply with the answer only.",
    "Explain in one sentence, and end with: So the answer is X.",
    "Explain in one sentence. The last line has the form **Answer:** X",
    r"Reason in one sentence, and put the final answer in \boxed{}.",
    INSPECT_FORM,
    "Be brief. Finish with: Final Answer: The final answer is $X$. I hope it is correct.",
    "Be brief. Give the answer after ####.",
)
FACTS = (
    ("What is the capital of France?", "Paris", "London", "Rome", "Madrid"),
    ("What is the capital of Japan?", "Tokyo", "Seoul", "Beijing", "Bangkok"),
    ("Which planet is closest to the sun?", "Mercury", "Venus", "Earth", "Mars"),
    ("Which animal barks?", "dog", "cat", "cow", "duck"),
    ("Which gas do plants take in?", "carbon dioxide", "oxygen", "nitrogen", "helium"),
    ("Which of these is a fruit?", "apple", "carrot", "potato", "onion"),
    ("Which season comes after winter?", "spring", "summer", "autumn", "winter"),
    ("What do bees make?", "honey", "milk", "silk", "wool"),
    ("Which colour is a mix of blue and yellow?", "green", "purple", "orange", "brown"),
    ("Which metal is liquid at room temperature?", "mercury", "iron", "copper", "gold"),
)
WORDS = (
    "table",
    "river",
    "candle",
    "window",
    "garden",
    "orange",
    "button",
    "forest",
    "ladder",
    "mirror",
    "pencil",
    "basket",
)
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry")


class Question(NamedTuple):
    """A question with its answer."""

    text: str
    target: str
    choices: list[str]


def letter(draw: random.Random) -> Question:
    """Return a question with four options."""
    topic = draw.randrange(4)
    if topic == 0:
        a, b = draw.randint(3, 19), draw.randint(3, 19)
        text, right = f"What is {a} * {b}?", str(a * b)
        options = [right, *map(str, draw.sample([a * b + d for d in (-10, -2, -1, 1, 2, 10, a, -b)], 3))]
    elif topic == 1:
        options = draw.sample([*WORDS], 4)
        text, right = "Which of these words comes first in the alphabet?", min(options)
    elif topic == 2:
        vowels = draw.sample("AEIOU", 1) + draw.sample("BCDFGHKLMNPRST", 3)
        text, right, options = "Which of these letters is a vowel?", vowels[0], vowels
    else:
        text, right, *others = draw.choice(FACTS)
        options = [right, *others]
    draw.shuffle(options)
    lines = [f"{letter}) {option}" for letter, option in zip("ABCD", options, strict=True)]
    return Question("\n".join([text, *lines]), "ABCD"[options.index(right)], options)


def boolean(draw: random.Random) -> Question:
    """Return a question to answer with yes or no, or with True or False."""
    topic = draw.randrange(3)
    if topic == 0:
        a, b, c = draw.randint(3, 19), draw.randint(3, 19), draw.randint(50, 150)
        asked, said, holds = f"Is {a} * {b} greater than {c}?", f"{a} * {b} is greater than {c}.", a * b > c
    elif topic == 1:
        word, sign = draw.choice(WORDS), draw.choice("aeinrt")
        asked = f"Does the word '{word}' contain the letter '{sign}'?"
        said, holds = f"The word '{word}' contains the letter '{sign}'.", sign in word
    else:
        fact, *options = draw.choice(FACTS)
        option = draw.choice(options[:2])
        asked, holds = f'Is "{option}" the right answer to the question "{fact}"?', option == options[0]
        said = f'"{option}" is the right answer to the question "{fact}"'
    if draw.random() < 0.5:
        return Question(f"{asked} (yes or no)", "yes" if holds else "no", [])
    return Question(f"True or False: {said}", str(holds), [])


def word(draw: random.Random) -> Question:
    """Return a question whose answer is a word or a name."""
    topic = draw.randrange(4)
    if topic == 0:
        options = draw.sample(WORDS, 4)
        return Question(f"Which of these words comes first in the alphabet: {', '.join(options)}?", min(options), [])
    if topic == 1:
        a, b, c = draw.sample(NAMES, 3)
        text = f"{a} is taller than {b}. {b} is taller than {c}. Who is the {{}} of the three?"
        return draw.choice([Question(text.format("tallest"), a, []), Question(text.format("shortest"), c, [])])
    if topic == 2:
        days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
        at, later = draw.randrange(7), draw.randint(2, 5)
        return Question(f"Today is {days[at]}. Which day is it in {later} days?", days[(at + later) % 7], [])
    text, right, *_ = draw.choice(FACTS)
    return Question(text, right, [])


def mathematics(draw: random.Random) -> Question:
    """Return a problem whose answer is an expression."""
    a, b, c = draw.randint(1, 6), draw.randint(7, 12), draw.randint(2, 9)
    total, square = Fraction(a, b) + Fraction(1, c), draw.choice([2, 3, 5, 6])
    problems = (
        (rf"Compute $\frac{{{a}}}{{{b}}} + \frac{{1}}{{{c}}}$. Give a fraction in lowest terms.", fraction(total)),
        (rf"Simplify $\sqrt{{{c * c * square}}}$.", rf"{c}\sqrt{{{square}}}"),
        (f"Solve $x^2 - {a + b}x + {a * b} = 0$. Give the set of all solutions.", rf"\{{{a}, {b}\}}"),
        (f"For which $x$ is $|x - {a}| < {c}$? Give an interval.", f"({a - c}, {a + c})"),
        (f"Solve ${a}x + {b} \\ge {b + a * c}$ in interval notation.", rf"[{c}, \infty)"),
        (f"Expand $(x + {a})(x + {b})$.", f"x^2 + {a + b}x + {a * b}"),
        (f"Find the derivative of ${a}x^3 + {b}x$.", f"{3 * a}x^2 + {b}"),
        (f"Find the midpoint of $({a}, {b})$ and $({a + 2 * c}, {b + 2})$.", f"({a + c}, {b + 1})"),
        (f"Compute $({a} + {b}i) + ({c} - i)$.", f"{a + c} + {b - 1}i"),
        (f"Solve for $x$: ${a}x + {c} = {a * b + c}$.", str(b)),
        (f"Compute ${c} \\cdot 10^{{{draw.randint(3, 5)}}} + {b}$.", ""),
        (f"Convert {30 * a} degrees to radians.", rf"{fraction(Fraction(a, 6))}\pi"),
    )
    text, target = draw.choice(problems)
    if not target:
        target = str(c * 10 ** int(text.rpartition("{")[2][0]) + b)
    return Question(text, target, [])


def fraction(value: Fraction) -> str:
    """Return a fraction in LaTeX."""
    return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


KINDS: dict[str, tuple[str, Callable[[random.Random], Question]]] = {
    "letters": ("letter", letter),
    "booleans": ("hard", boolean),
    "words": ("hard", word),
    "mathematics": ("math", mathematics),
}


def reply_to(url: str, prompt: str, seed: int) -> str:
    """Return the model's reply."""
    message = {"role": "user", "content": prompt}
    body = {"model": "local", "messages": [message], "temperature": 0.7, "max_tokens": 250, "seed": seed}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer local"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as response:
        text: str = json.load(response)["choices"][0]["message"]["content"]
    return text


def main() -> None:
    """Write the replies, by kind."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--url", required=True, help="an OpenAI-compatible server")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--count", type=int, default=200, help="replies of each kind")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--calls", type=int, default=16, help="calls at the same time")
    arguments = options.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    def row(kind: str, number: int) -> dict[str, Any]:
        form, ask = KINDS[kind]
        question = ask(random.Random(f"{arguments.seed} {kind} {number}"))
        prompt = f"{question.text}\n\n{FORMS[number % len(FORMS)]}".strip()
        reply = reply_to(arguments.url, prompt, arguments.seed + number)
        return {"kind": form, "prompt": prompt, "reply": reply, "target": question.target, "choices": question.choices}

    wanted = [(kind, number) for number in range(arguments.count) for kind in KINDS]
    with ThreadPoolExecutor(arguments.calls) as calls, contextlib.ExitStack() as opened:
        files = {kind: opened.enter_context((arguments.out / f"{kind}.jsonl").open("w")) for kind in KINDS}
        for (kind, _), written in zip(wanted, calls.map(row, *zip(*wanted, strict=True)), strict=True):
            print(json.dumps(written), file=files[kind], flush=True)


if __name__ == "__main__":
    main()
