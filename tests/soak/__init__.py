"""A soak: does a daemon under churn keep its memory, its open files and its tasks?"""
