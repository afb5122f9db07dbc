"""Events and where they come from: the click stream, its logs and the messages that travel on them."""
