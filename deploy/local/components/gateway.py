#!/usr/bin/env python3
"""A gateway: asks the vector store for documents, puts them before the question, and streams the model's answer on.

It knows nothing of certificates: `--vectors` and `--model` are plain HTTP addresses on loopback, where its sidecar
listens. When it starts it fills the vector store with the sentences of `text.txt`.

    gateway.py --port 8200 --vectors http://127.0.0.1:9101 --model http://127.0.0.1:9102

    POST /ask {"question": "..."}   ->  text/event-stream of the chat completion
"""

import argparse
import json
import pathlib
import re
import threading
import time

from components import Handler, post, serve


class Gateway(Handler):
    vectors = ""
    model = ""
    filled = threading.Event()

    def do_GET(self):
        if self.path == "/health":
            ready = self.filled.is_set()
            self.send_json(200 if ready else 503, {"status": "ok" if ready else "filling the vector store"})
        else:
            self.send_json(404, {"error": f"no such path: {self.path}"})

    def do_POST(self):
        try:
            question = self.read_json()["question"]
        except (ValueError, KeyError) as error:
            self.send_json(400, {"error": f"not a question: {error!r}"})
            return
        if self.path != "/ask":
            self.send_json(404, {"error": f"no such path: {self.path}"})
            return
        try:
            documents = self.documents(question)
            messages = [{"role": "system", "content": " ".join(documents)}, {"role": "user", "content": question}]
            answer = post(self.model + "/v1/chat/completions", {"model": "trigram-1", "messages": messages,
                                                                "stream": True})
        except (OSError, ValueError, KeyError) as error:
            self.send_json(502, {"error": str(error)})
            return
        self.pass_on(answer)

    def documents(self, question):
        answer = post(self.vectors + "/query", {"text": question, "k": 3})
        body = answer.read()
        if answer.status != 200:
            raise ValueError(f"the vector store answered {answer.status}: {body.decode(errors='replace')}")
        return [match["text"] for match in json.loads(body)["matches"]]

    def pass_on(self, answer):
        if answer.status != 200:
            self.send_json(answer.status, {"error": answer.read().decode(errors="replace")})
            return
        self.begin_stream("text/event-stream")
        while data := answer.read1(65536):
            self.send_chunk(data)
        self.end_stream()


def fill(vectors):
    """Fills the vector store; tries again until it and both sidecars are up, and says why when the reason changes."""
    text = pathlib.Path(__file__).with_name("text.txt").read_text()
    documents = [{"id": f"sentence-{number}", "text": sentence.strip()}
                 for number, sentence in enumerate(re.findall(r"[^.]+\.", text))]
    said = ""
    while not Gateway.filled.is_set():
        try:
            answer = post(vectors + "/upsert", {"documents": documents})
            body = answer.read().decode(errors="replace")
            if answer.status == 200:
                Gateway.filled.set()
                return
            why = f"the vector store answered {answer.status}: {body}"
        except OSError as error:
            why = f"the vector store can't be reached: {error}"
        if why != said:
            print(why, flush=True)
            said = why
        time.sleep(0.2)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--vectors", required=True)
    arguments.add_argument("--model", required=True)
    given = arguments.parse_args()
    Gateway.vectors, Gateway.model = given.vectors.rstrip("/"), given.model.rstrip("/")
    threading.Thread(target=fill, args=(Gateway.vectors,), daemon=True).start()
    serve(given.port, Gateway)


if __name__ == "__main__":
    main()
