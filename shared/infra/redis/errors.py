"""What a call raises while Redis is away."""

from redis.exceptions import RedisClusterException, RedisError

# Repeating later is right. A cluster's errors are not all `RedisError`.
UNAVAILABLE = (RedisError, RedisClusterException, OSError, TimeoutError)
