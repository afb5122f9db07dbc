"""Send clicks of one's own to the broker of compose.yaml, one JSON event a record.

SCHEMA=examples/clicks.toml docker compose up --wait --scale generator=0 has it learn from them.
"""

import json
import time

from kafka import KafkaProducer

producer = KafkaProducer(bootstrap_servers="localhost:9092")
for n in range(20_000):
    site = ("news", "games", "mail")[n % 3]
    event = {
        "event_id": str(n),
        "event_time": time.time(),
        "label": int(n % 5 == 0 or (site == "games" and n % 4 == 0)),
        "numeric": {"price": n % 100 / 10},
        "categorical": {"site": site, "tags": ["new", "sale"][: n % 3]},
    }
    producer.send("clicks", json.dumps(event).encode())
producer.flush()
