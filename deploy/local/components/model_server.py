#!/usr/bin/env python3
"""A model server with the OpenAI API: a small language model, trained when it starts, that streams its tokens.

The model is a back-off trigram model over the words of `text.txt`: it counts which word follows which two, and draws
the next word from those counts. That is a real language model, only a tiny one: it answers in the manner of its text
and understands nothing. The words of the prompt weigh the first draw, so that answers begin near the question.

    model_server.py --port 8000 [--tokens-per-second 40]
"""

import argparse
import collections
import json
import pathlib
import random
import re
import time
import uuid

from components import Handler, serve

MODEL = "trigram-1"
END = "</s>"
# Words that say nothing about the subject of a question.
COMMON = set("a an and are as at be by do does for from how in is it its of on or that the this to was what when who "
             "why will with you".split())


class Trigrams:
    """Counts of next words after two words, after one, and after none, learnt sentence by sentence."""

    def __init__(self, text):
        self.after_two = collections.defaultdict(collections.Counter)
        self.after_one = collections.defaultdict(collections.Counter)
        self.sentences = []
        for sentence in re.findall(r"[^.]+\.", text):
            words = ["<s>", "<s>", *re.findall(r"[\w'-]+|[.,]", sentence), END]
            self.sentences.append(words[2:-1])
            for first, second, third in zip(words, words[1:], words[2:]):
                self.after_two[first, second][third] += 1
                self.after_one[second][third] += 1

    def generate(self, prompt, least, limit, temperature, seed):
        """Yields `least` to `limit` words: a sentence near the prompt to begin with, then on from there."""
        draw = random.Random(seed)
        wanted = set(re.findall(r"[\w'-]+", prompt.lower())) - COMMON
        first, second = "<s>", "<s>"
        given = 0
        starts = self.openings(wanted)
        while given < limit:
            if (first, second) == ("<s>", "<s>") and starts:
                counts = starts
            else:
                counts = self.after_two.get((first, second)) or self.after_one.get(second) or {END: 1}
            word = self.choose(draw, counts, wanted, temperature)
            if word == END:
                if given >= min(least, limit):
                    return
                first, second = "<s>", "<s>"
                continue
            yield word
            given += 1
            first, second = second, word

    def openings(self, wanted):
        """First words of sentences, weighed by how much of the prompt their sentence speaks of."""
        counts = collections.Counter()
        for sentence in self.sentences:
            common = len(wanted.intersection(word.lower() for word in sentence))
            counts[sentence[0]] += common * common
        return +counts

    @staticmethod
    def choose(draw, counts, wanted, temperature):
        words = list(counts)
        power = 1.0 / max(temperature, 0.05)
        weights = [(counts[word] * (4 if word.lower() in wanted else 1)) ** power for word in words]
        return draw.choices(words, weights)[0]


def join(words):
    """Puts the spaces back: one before each word but the first and punctuation."""
    for index, word in enumerate(words):
        yield word if index == 0 or word in ".," else " " + word


class ModelServer(Handler):
    model = None
    pause = 0.0

    def do_GET(self):
        if self.path == "/v1/models":
            model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "vouchsafe"}
            self.send_json(200, {"object": "list", "data": [model]})
        elif self.path == "/health":
            self.send_json(200, {"status": "ok"})
        else:
            self.refuse(404, f"no such path: {self.path}")

    def do_POST(self):
        try:
            request = self.read_json()
            if self.path != "/v1/chat/completions":
                self.refuse(404, f"no such path: {self.path}")
                return
            prompt = " ".join(text_of(message) for message in request["messages"])
            limit = int(request.get("max_tokens") or request.get("max_completion_tokens") or 48)
            # As vLLM has it: an answer that goes on for as long as somebody listens.
            least = int(request.get("min_tokens") or 24)
            temperature = float(request.get("temperature") or 0.7)
            seed = request.get("seed")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.refuse(400, f"not a chat completion request: {error!r}")
            return
        words = join(self.model.generate(prompt, least, min(limit, 1024), temperature, seed))
        base = {"id": "chatcmpl-" + uuid.uuid4().hex, "created": int(time.time()), "model": MODEL}
        if request.get("stream"):
            self.stream(base, words, len(prompt.split()), request.get("stream_options") or {})
        else:
            self.complete(base, list(words), len(prompt.split()))

    def complete(self, base, words, prompt_tokens):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "".join(words)}}
        self.send_json(200, base | {"object": "chat.completion", "choices": [choice],
                                    "usage": usage(prompt_tokens, len(words))})

    def stream(self, base, words, prompt_tokens, options):
        base |= {"object": "chat.completion.chunk"}
        self.begin_stream("text/event-stream")
        self.event(base | {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
        count = 0
        for word in words:
            count += 1
            self.event(base | {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
            time.sleep(self.pause)
        self.event(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if options.get("include_usage"):
            self.event(base | {"choices": [], "usage": usage(prompt_tokens, count)})
        self.send_chunk(b"data: [DONE]\n\n")
        self.end_stream()

    def event(self, value):
        self.send_chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def refuse(self, status, message):
        self.send_json(status, {"error": {"message": message, "type": "invalid_request_error"}})


def text_of(message):
    """The text of a message: a string, or the text parts of a list."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part.get("type") == "text")


def usage(prompt_tokens, completion_tokens):
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--tokens-per-second", type=float, default=40.0,
                           help="the pace of a stream; a trigram model would otherwise be done before anyone looks")
    given = arguments.parse_args()
    ModelServer.model = Trigrams(pathlib.Path(__file__).with_name("text.txt").read_text())
    ModelServer.pause = 1.0 / given.tokens_per_second
    serve(given.port, ModelServer)


if __name__ == "__main__":
    main()
