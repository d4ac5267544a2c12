"""`omniopd audit`: is this teacher worth it, before any training?"""
