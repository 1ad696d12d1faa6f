#!/usr/bin/env python3
"""A vector store: documents, their embeddings, and the nearest ones to a question.

An embedding is made by hashing words and their three-letter pieces into 512 numbers, scaled to length one; nearness is
the cosine. That is feature hashing, a real embedding that needs no trained model.

    vector_store.py --port 8100

    POST /upsert {"documents": [{"id": "a", "text": "..."}]}   ->  {"stored": 1}
    POST /query  {"text": "...", "k": 3}                       ->  {"matches": [{"id", "text", "score"}]}
"""

import argparse
import hashlib
import math
import re
import threading

from components import Handler, serve

DIMENSIONS = 512
# The example stores a few dozen documents; the bound keeps a wrong client from filling memory.
DOCUMENTS_LIMIT = 10_000


def embed(text):
    """Text to a vector of length one; the zero vector for a text without words."""
    vector = [0.0] * DIMENSIONS
    for word in re.findall(r"\w+", text.lower()):
        padded = f"^{word}$"
        pieces = [word, *(padded[i:i + 3] for i in range(len(padded) - 2))]
        for piece in pieces:
            digest = hashlib.blake2b(piece.encode(), digest_size=8).digest()
            # One bit chooses the sign, so that collisions cancel instead of adding up.
            sign = 1.0 if digest[0] & 1 else -1.0
            weight = 1.0 if piece == word else 0.3
            vector[int.from_bytes(digest[1:], "big") % DIMENSIONS] += sign * weight
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector] if length else vector


class VectorStore(Handler):
    documents = {}
    lock = threading.Lock()

    def do_GET(self):
        if self.path == "/health":
            self.send_json(200, {"status": "ok"})
        else:
            self.send_json(404, {"error": f"no such path: {self.path}"})

    def do_POST(self):
        try:
            request = self.read_json()
            if self.path == "/upsert":
                self.send_json(200, self.upsert(request["documents"]))
            elif self.path == "/query":
                self.send_json(200, self.query(request["text"], int(request.get("k", 3))))
            else:
                self.send_json(404, {"error": f"no such path: {self.path}"})
        except (ValueError, KeyError, TypeError) as error:
            self.send_json(400, {"error": f"not a valid request: {error!r}"})

    def upsert(self, documents):
        embedded = {document["id"]: (document["text"], embed(document["text"])) for document in documents}
        with self.lock:
            if len(self.documents | embedded) > DOCUMENTS_LIMIT:
                raise ValueError(f"at most {DOCUMENTS_LIMIT} documents")
            self.documents.update(embedded)
        return {"stored": len(embedded)}

    def query(self, text, k):
        wanted = embed(text)
        with self.lock:
            known = list(self.documents.items())
        scored = [(sum(a * b for a, b in zip(wanted, vector)), key, document) for key, (document, vector) in known]
        scored.sort(reverse=True)
        return {"matches": [{"id": key, "text": document, "score": round(score, 4)}
                            for score, key, document in scored[:max(k, 0)]]}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, required=True)
    serve(arguments.parse_args().port, VectorStore)


if __name__ == "__main__":
    main()
