"""What is kept: files, records, what each was made from, and who is writing."""
