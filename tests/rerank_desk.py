"""A reranking service of the tests' own, over real HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Desk:
    """A service whose relevance of a passage is its length / 100; answers what `plan` says first."""

    def __init__(self):
        self.plan, self.seen, self.keys = [], [], []
        desk = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                desk.seen.append(body)
                desk.keys.append(self.headers.get("authorization"))
                status, headers = desk.plan.pop(0) if desk.plan else (200, {})
                texts = body.get("documents") or body.get("texts")
                if "texts" in body:
                    answer = [{"index": i, "score": len(text) / 100} for i, text in reversed(list(enumerate(texts)))]
                else:
                    rows = [{"index": i, "relevance_score": len(text) / 100} for i, text in enumerate(texts)]
                    answer = {"results": sorted(rows, key=lambda row: -row["relevance_score"])}
                payload = json.dumps(answer if status == 200 else {"message": "no"}).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(payload))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/rerank"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
