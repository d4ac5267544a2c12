"""The DAG, one module per stage. A stage never imports another stage."""
