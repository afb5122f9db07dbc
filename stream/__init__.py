"""Events and where they come from: clicks, the logs and the messages that travel on them."""
