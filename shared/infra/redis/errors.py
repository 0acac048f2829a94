"""The exceptions that a call raises while Redis is away."""

from redis.exceptions import RedisClusterException, RedisError

# The caller should try again later. Not all errors of a cluster are `RedisError`.
UNAVAILABLE = (RedisError, RedisClusterException, OSError, TimeoutError)
