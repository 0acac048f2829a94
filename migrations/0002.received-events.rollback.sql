DROP TABLE fold_progress;
DROP TABLE set_aside_event;
DROP TABLE webhook_inbox;
DROP TABLE event_horizon;
DROP TABLE event;
