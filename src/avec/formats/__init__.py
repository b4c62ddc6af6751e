"""Model formats: how their files read and write. The place where front-ends and executors meet."""
