"""Small changes to the code that decides, one at a time; its tests have to notice each."""
