"""Labels that do not come from folders as they are: patterns, class lists, several per image."""
