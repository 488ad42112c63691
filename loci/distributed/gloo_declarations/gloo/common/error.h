// Included by torch; nothing of it is needed here.
#pragma once
