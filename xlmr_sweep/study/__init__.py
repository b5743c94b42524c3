"""What is asked: the declaration of a study, and the trials it means. Reads no file but the study's own."""
