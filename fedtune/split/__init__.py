"""Split models: head and tail at the client, the body at the coordinator, soft prompts, and what crosses the cuts."""
