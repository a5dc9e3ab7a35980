"""The way between a process and ranks on other machines, which serve it as if they were near."""
