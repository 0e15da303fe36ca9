"""What `import avprep` exports: thin functions over stages, jobs and shards, for use from Python."""
