"""When a run on slow links has the loss of a dense run."""
