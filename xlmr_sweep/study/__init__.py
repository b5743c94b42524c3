"""What is asked: the declaration of a study, and the trials it means. Reads
only the study file, and hashes the files of folders that it names."""
