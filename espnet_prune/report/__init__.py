"""One report from what the stages left: stage 18."""
