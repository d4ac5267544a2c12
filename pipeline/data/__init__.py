"""Tables between the stages, text and ids, and rows that somebody else wrote."""
